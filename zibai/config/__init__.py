"""Options: each is declared once, and everything else (command line, checks, pages) follows from it.

This wing opens no socket and starts nothing. It refuses a wrong value before anything runs.

 - options    every option with default, limits and help; plain values that can be pickled
 - option     the declaration of an option: how its value is read, shown and checked
 - effects    options that have no effect, as others are
 - sources    where values come from: flags, variables, a file, defaults
 - keywords   the keywords of serve() and run(), for type checkers and editors
 - values     values as people write them
 - file       the file of options: finding and reading it
 - foreign    flags of other servers, and their counterparts here
 - atoms      the language of --access-log-format
 - envfile    the file of --env-file
 - paths      paths, of URLs and of files that the server writes
 - addresses  addresses, and the peers that are believed
"""
