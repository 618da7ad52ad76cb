"""How well it works: tasks, evaluation, probes, films."""
