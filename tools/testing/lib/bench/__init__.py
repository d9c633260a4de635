# SPDX-License-Identifier: GPL-2.0
"""What `make bench` measures, and how it is shown."""
