"""`manage.py runlab`: what it makes ready at the start, and what it then keeps running."""
