"""Options: each is declared once, and everything else (command line, checks, pages) follows from it.

It opens no socket and starts nothing. A wrong value is refused here, before anything runs.

 - options    every option with default, limits and help; plain values that can be pickled
 - option     what an option is: how its value is read, shown and checked
 - sources    where values come from: flags, variables, a file, defaults
 - keywords   the keywords of serve() and run(), for type checkers and editors
 - values     values as people write them
 - file       the file of options: which one, and what is in it
 - foreign    flags of other servers, and what they are here
 - atoms      the language of --access-log-format
 - envfile    the file of --env-file
 - paths      paths, of URLs and of files that the server writes
 - addresses  addresses, and the peers that are believed
"""
