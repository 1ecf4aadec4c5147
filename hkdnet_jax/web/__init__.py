"""The web page: two pictures go in, the fused one comes out."""
