"""A Lambda function whose process is killed while it starts."""

import os
import signal

os.kill(os.getpid(), signal.SIGKILL)
