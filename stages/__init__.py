"""One module per command that makes an artifact: `run(config, *, inputs, out)`, read, call, write.

Imported as `iterppo.stages`, never as `stages`.
"""
