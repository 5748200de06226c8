"""Where a model looks: class activation maps, attention maps, and what they agree with."""
