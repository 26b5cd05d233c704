"""Engines that need more than this process; each is imported only where it is asked for."""
