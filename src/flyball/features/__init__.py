"""Features: one meaning in history, in the online store and beside the model.

Which module does what:

    declared      definitions/ (what a user writes) -> spec (plain data that everything else reads), service (what a
                  model reads), callables (functions by digest), frames and schemas (what a definition holds), types,
                  values, zones
    computed      expressions/ (derive, where), transforms/ (of whole columns), kernel/ (as-of and windows: the one that
                  decides), request (columns of the request and of T), matrix
    history       reading/ (raw rows -> accepted rows), offline (the question), answers (one view), chunks and
                  history_file (more than fits into memory), table (the answer), manifest
    stored        keys, rows, rowlayout and packing (row views), cells/ (window views), batch
    read online   online (the hot path), lookup (for people), viewreader, guarded (a store that is slow or away)
    pushed        ingest (takes pushes), pushes, pushcheck, raw, intake (checks), publication (when a row is known),
                  attached and applying (into every view), metered
    materialized  materialize (acts), history_rows, partitions and bulk (which rows, made ready), arrival, stale
    kept right    refresh, upkeep, checks, skew, erase
    shown         catalog, difference, shared
    outside       ports

A test holds this map to the folder.
"""
