"""What several verbs share: options, the stage's folder and outputs, what a stage costs."""
