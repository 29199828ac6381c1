"""vault-credentials: users' Alpaca and Polygon API credentials, encrypted by Vault's transit engine.

Start reading at `api/credential_routes.py`; the README gives the order.
"""
