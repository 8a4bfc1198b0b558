"""Files of detectors, read without believing them: nothing in a file is run, called or looked up on its word.

    archive       the zip: its size, its sums, its records
    pickles       what the pickle in it would do, before it is done
    families      the kinds of files that are read and written: Ultralytics', and yolov5's
    names         what a pickle of Ultralytics may name
    vocabulary    what pickles of any one family may name, call and fill
    calls         what it may call, and with what
    door          what was loaded: is it the detector that it seems?
    plain         values without code: how deep, how many, of which types
    model_yaml    a model's description, before anything is built from it
    cards         where a detector comes from and how it came about

Each refuses with a SlimError that begins with a verb: its subject is the file, which the caller puts before it.
"""
