"""The foretell study: an example of a study outside the package, with mathematics and a page of its own."""
