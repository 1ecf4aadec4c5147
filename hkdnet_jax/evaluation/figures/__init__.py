"""The figures of papers and reports: the data of each, and its drawing."""
