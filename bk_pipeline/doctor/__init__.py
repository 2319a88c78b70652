"""Checks of the installation and of stored data.

Checks leave no changes behind and do not print.
"""
