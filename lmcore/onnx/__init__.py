"""Models that run in other people's programs: a bundle as ONNX files, written from its leaves.

The files have the interface that speech recognisers read (icefall, sherpa-onnx). `graph` collects
operators, `storage` says how each codec's codes stand in a file, `products` and `layers` make a
network of them, `networks` the two files, `verify` scores them in a process of its own, and
`export` puts them into a folder. onnx and onnxruntime are imported where they are used: `lmcore`
loads without them.
"""
