"""The networks of HKDnet (Linen): image and named intermediates out."""
