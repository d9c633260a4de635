# SPDX-License-Identifier: GPL-2.0
"""Shared by the test tools: the cache, the kernel, the guest and its machine."""
