"""What all tests stand on."""

import signal

# A shell starts background jobs with Ctrl-C ignored, and they hand that down to what they start:
# the tests that interrupt a program would wait for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
