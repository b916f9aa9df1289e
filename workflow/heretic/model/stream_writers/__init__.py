"""Discovery of the modules that write to the residual stream, and proof that nothing else does.

Reading order: `anatomy` (the result, `find_stream_writers`), `layers` (decoder layers),
`candidates` (maps that may write), `probe` and `interventions` (experiments on the loaded network),
`identify` (writers among the candidates), `gains` (norms between a writer and the stream),
`matrices` (layout of their weights), `verify` (proof on the whole network).
"""
