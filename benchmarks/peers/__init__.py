"""Other ways to the scores of circuits, each as a researcher would take it, and what they are given."""
