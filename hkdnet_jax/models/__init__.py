"""The networks of HKDnet in Linen, which return an image and named intermediates."""
