"""Code generated from the .proto files beside it; nothing here is written by hand."""
