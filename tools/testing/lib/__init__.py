# SPDX-License-Identifier: GPL-2.0
"""What the test tools share: the cache, the kernel, the guest and its machine."""
