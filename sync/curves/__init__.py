"""A run's metrics as curves, from the files that its script wrote anyway.

    sources   which of a run's files hold metrics, and which goes before which
    lines     readers of what is written line by line: CSV, JSONL
    events    reader of TensorBoard's event files
    trainer   reader of Hugging Face's trainer_state.json
    table     what readers fill: columns of numbers, with holes
    kept      what has been read, kept in memory so that a new row costs a new row
    shown     what a chart gets: thinned, named, and only what is new

All of it is derived: nothing here is written down, and all of it may be thrown away at any time.
"""
