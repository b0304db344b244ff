"""The master: it owns the listeners, supervises its children, and answers the operator."""
