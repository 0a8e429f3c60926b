"""The whole stack on one machine, without Docker: ``python -m local COMMAND``.

The commands start a real mongod and LocalStack in host mode, build and deploy ``template.yaml``,
the very file that goes to AWS, to it, and run the pipeline. All state lives under one folder of
the clone.
"""
