"""Array operations of the networks: convolution, filters, Harris, attention."""
