"""Studies: experiments on trained models. `python -m worldmodel.studies` runs them by name."""
