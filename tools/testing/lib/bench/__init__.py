# SPDX-License-Identifier: GPL-2.0
"""The measurements of `make bench`, and the report on them."""
