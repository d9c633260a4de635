# SPDX-License-Identifier: GPL-2.0
"""The one exception that a tool reports to its user without a traceback."""


class Failure(Exception):
    """Something that the user can act on; the message says what and how."""
