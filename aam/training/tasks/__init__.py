"""What is learned: one object for each thing, with its head, its truth, its part of the loss, and its metrics.

`base` says what a task is, `table` lists those of pretraining. Tasks know the models and the batches; the objective
that adds them up, and the trainer, know tasks by `base.Task` alone.
"""
