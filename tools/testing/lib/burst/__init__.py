# SPDX-License-Identifier: GPL-2.0
"""Bursts of I/O in test guests: how they are made, and their results."""
