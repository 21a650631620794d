"""Zoo: many trained networks on disk, with a table of labels; opened at once, read in batches.

Layout of a zoo folder, version 1
---------------------------------
``spec.json``
    ``{"format": "graphnfn-zoo", "version": 1, "specs": [...], "about": {...}}``. Every entry of ``specs`` is a NetSpec
    as :meth:`graphnfn.spec.NetSpec.to_json` writes it, as an object. ``about`` is free: data set, input grid, builder.
    Other keys are allowed and kept out of the way.
``weights.safetensors``
    One stack per parameter, networks first.

    - If all specs have the same parameters (names and shapes; they may differ in activations), a stack is called by
      the name of the parameter and has one row per network of the zoo: ``conv0.weight [N, 16, 1, 3, 3]``.
    - Otherwise it is called ``<number of the spec>/<name of the parameter>`` and has one row per network of that
      spec, in the order of the table: ``1/layers.0.weight [N_1, 32, 2]``.

    Large zoos have ``weights-00000.safetensors, weights-00001.safetensors, ...`` instead: a stack is what its
    parts in these files give, one after the other.
``table.parquet``
    One row per network: labels, hyper-parameters, whatever is known. Two columns have a meaning: ``spec``, the number
    of the network's spec (may be absent where there is one spec), and ``split``, one of train, val, test (optional).

This is a superset of the plain layout "stacks in safetensors, a Parquet table, a ``spec.json`` that describes the
architecture in words": such folders are opened as well, see :mod:`graphnfn.zoo.layouts` for the words. A reader of
the plain layout finds the tensors and the table of this one where it expects them.

Rules
-----
- Opening reads the headers only; weights are memory-mapped, and the table is read when first asked for.
- A batch of consecutive rows is made of views of the mapping (node parameters, the small part, are gathered); any
  other rows are copied. Views are for reading: writing into them changes this process's zoo (never the file).
- Every tensor belongs to a parameter of a spec, every stack is as long as the table says; otherwise opening fails.
- A zoo is written into a hidden folder and renamed: readers never see half of one.
"""

from graphnfn.zoo.zoo import Zoo as Zoo
