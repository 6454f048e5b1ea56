"""The status service: is everything well?"""
