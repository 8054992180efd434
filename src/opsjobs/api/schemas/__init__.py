"""Schemas of all answers, one module per noun.

Routes encode the answers; tests compare them with these models.
"""
