"""What the server says about itself: log records and files, and the scoreboard.

Nothing in here decides anything about a request. A log or a file that fails never costs a response.

 - records     the record of an exchange, and how its line is written without one
 - format      how a record becomes a line; what clients send is escaped
 - access      lines of the access log by the atoms of gunicorn
 - jsonlines   lines of JSON
 - console     the handler for standard error
 - logfile     a file that all processes write, rotated, and reopened after it was moved
 - openfile    an open log file: its locks, and whether its path still names it
 - setup       the configuration of the loggers
 - scoreboard  what each worker does, in memory that others can read: the file
 - row         the row of one server loop in it, with a slot for each thread or greenlet
 - rows        the rows of one worker, read as one
 - slot        what one thread or greenlet runs and has run
 - counts      what each thread or greenlet has counted: requests and durations
 - totals      what the server has counted apart from the workers that run
 - board_file  where the scoreboard's file lies
 - board_view  a scoreboard as plain values, and as a table
 - rates       the differences of two moments: requests a second, percentiles
 - metrics     the same values for Prometheus
 - statsd      the same values for statsd
"""
