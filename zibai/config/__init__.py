"""Options: each is declared once, and everything else (command line, checks, pages) follows from it.

It opens no socket and starts nothing. A wrong value is refused here, before anything runs.

 - options    every option with default, limits and help; plain values that can be pickled
 - option     what an option is: how its value is read, shown and checked
 - addresses  addresses, and the peers that are believed
"""
