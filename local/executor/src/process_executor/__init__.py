"""LocalStack in host mode without Docker: plug-ins for Lambda and S3.

Lambda (``LAMBDA_RUNTIME_EXECUTOR=process``): every execution environment is a process group of its
own that speaks the Lambda Runtime API with a small server inside LocalStack.

    plugins      what LocalStack finds by entry point
    settings     the environment variables that configure the executor
    executor     LocalStack's RuntimeExecutor interface; hands over to the event loop
    loop         the one thread in which all environments live
    environment  an execution environment: calls, time limits, restarts after a failure
    runtime      one process of an environment, from its start to its end
    runtime_api  the HTTP side of the Runtime API
    variables    what a function finds in os.environ
    code_store   unpacked and compiled code, one folder per archive
    logs         the lines of a call, CloudWatch's START, END and REPORT, the console log
    reaper       ends the processes of a LocalStack that was killed
    assignment   two races in LocalStack's choice of an environment, closed

    launcher, runtime_client_fallback, reaper_main run as programs in other processes and import
    nothing of this package.

S3 (``PROVIDER_OVERRIDE_S3=durable``): ``durable_s3`` keeps objects and their versions in a folder.
"""
