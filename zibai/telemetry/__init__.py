"""What the server says about itself: log records and files, and the scoreboard.

This wing decides nothing about a request. A log or a file that fails never costs a response.

 - records     the record of an exchange, and how its line is written without one
 - format      how a record becomes a line; text of clients is escaped
 - access      lines of the access log by the atoms of gunicorn
 - jsonlines   lines of JSON
 - console     the handler for standard error
 - logfile     a file that all processes write, rotated, and reopened after it was moved
 - logpath     the path of such a file, checked at the start
 - losses      the records that a log file could not take
 - openfile    an open file: its locks, and whether its path still names it
 - setup       the configuration of the loggers
 - scoreboard  the state of each worker, in memory that others can read: the file
 - row         the row of one server loop in it, with a slot for each thread or greenlet
 - rows        the rows of one worker, read as one
 - slot        the running and finished requests of one thread or greenlet
 - counts      the counters of each thread or greenlet: requests and durations
 - totals      the counters of workers that have ended, and of events
 - board_file  where the scoreboard's file lies
 - board_view  a scoreboard as plain values, and as a table
 - rates       the differences of two moments: requests a second, percentiles
 - metrics     the same values for Prometheus
 - statsd      the same values for statsd
"""
