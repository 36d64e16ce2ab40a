"""Auditing second thoughts: does a model stand by its answers when it is asked again, and which heads look away?"""
