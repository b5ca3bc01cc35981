"""The command zibai.

Thin: arguments become options, and other wings do the work.

 - arguments  the command line, made from the declarations of options
 - ps         zibai ps
"""
