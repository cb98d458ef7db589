"""Exit statuses of commands."""

DONE = 0
FAILED = 1  # what the command checks is not so; or an error of ours, with its trace
BAD_INPUT = 2  # one message says what is wrong
STOPPED = 130  # by a signal; the same command resumes
