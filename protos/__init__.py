"""The contracts, and the script that generates code from them."""
