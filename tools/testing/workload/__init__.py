# SPDX-License-Identifier: GPL-2.0
"""Verified I/O of the test guest: what runs in it, and the host's side of it."""
