"""A real Jupyter kernel, driven from outside; run by the Python of the hosts' own environment, imported by nobody.

Reads commands as JSON lines from stdin and prints one JSON line for each::

    {"notebook": PATH}      executes a notebook through nbclient, and prints all its outputs by cell
    {"run": CODE}           runs a cell in the kernel, and prints what came of it
    {"start": CODE}         the same without waiting for the end, once it has printed something
    {"interrupt": true}     interrupts the kernel, and prints what came of the cell that was running, and when
"""

import json
import sys
import time

import nbclient
import nbformat
from jupyter_client import KernelManager

PATIENCE = 20


class Kernel:
    def __init__(self):
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel()
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)
        self.running = None

    def run(self, code):
        self.running = self.client.execute(code)
        return self.outcome()

    def start(self, code):
        self.running = self.client.execute(code)
        while True:
            message = self.message()
            if message["msg_type"] == "stream":
                return {"text": message["content"]["text"]}

    def interrupt(self, _):
        pressed = time.monotonic()
        self.manager.interrupt_kernel()
        return {**self.outcome(), "seconds": time.monotonic() - pressed}

    def outcome(self):
        """All that comes of the running cell, until the kernel is idle; late output of threads comes with the next."""
        found = {"text": "", "error": ""}
        while True:
            message = self.message()
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                found["text"] += content["text"]
            elif kind == "execute_result":
                found["text"] += content["data"]["text/plain"]
            elif kind == "error":
                found["error"] = content["ename"] + ": " + content["evalue"]
            elif kind == "status" and content["execution_state"] == "idle" and self.ours(message):
                return found

    def message(self):
        return self.client.get_iopub_msg(timeout=PATIENCE)

    def ours(self, message):
        return message["parent_header"].get("msg_id") == self.running

    def end(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel()


def execute(path):
    notebook = nbformat.read(path, as_version=4)
    folder = path.rpartition("/")[0]
    nbclient.NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": folder}}).execute()
    return {cell["id"]: [text_of(output) for output in cell["outputs"]] for cell in notebook.cells if "outputs" in cell}


def text_of(output):
    return output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]


def main():
    kernel = None
    try:
        for line in sys.stdin:
            (verb, argument), = json.loads(line).items()
            if verb == "notebook":
                answer = execute(argument)
            else:
                kernel = kernel or Kernel()
                answer = getattr(kernel, verb)(argument)
            print(json.dumps(answer), flush=True)
    finally:
        if kernel:
            kernel.end()


main()
