"""Array operations the networks are built from: convolution, Harris, attention."""
