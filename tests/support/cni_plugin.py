#!/usr/bin/python3 -IS
"""A CNI plugin that does what files in its own directory say. Copied there under the names of plugin types.

calls.jsonl         it appends one line for each call: type, environment, input, who called
TYPE.COMMAND        how to behave: {"hang": true} {"sleep": s} {"garbage": text} {"fail": {CNI error}} {"exit": n}
                    {"stderr": text} {"flood": bytes} {"child": true} {"result": {...}} {"leave": true}
hanging             a fifo: a byte is written there when it hangs
pool/               one file for each address in use, named by its last number; inside: who has it
"""

import json
import os
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(sys.argv[0]))
TYPE = os.path.basename(sys.argv[0])
COMMAND = os.environ.get("CNI_COMMAND", "")
WHO = os.environ.get("CNI_CONTAINERID", "")
FIRST, LAST = 10, 12


def path(*names):
    return os.path.join(HERE, *names)


def end(answer, code=0):
    print(json.dumps(answer), flush=True)
    sys.exit(code)


def fail(text, code=100):
    end({"cniVersion": "1.0.0", "code": code, "msg": text, "details": ""}, 1)


def misbehave(how):
    if "sleep" in how:
        time.sleep(how["sleep"])
    if how.get("child"):
        os.spawnl(os.P_NOWAIT, "/bin/sleep", "sleep", how["child"])
    if how.get("hang"):
        with open(path("hanging"), "wb") as fifo:
            fifo.write(b"!")
        while True:
            signal.pause()
    if "stderr" in how:
        print(how["stderr"], file=sys.stderr, flush=True)
    if "flood" in how:
        sys.stdout.write("x" * how["flood"])
        sys.exit(0)
    if "garbage" in how:
        print(how["garbage"])
        sys.exit(0)
    if "fail" in how:
        end(how["fail"], 1)
    if "exit" in how:
        sys.exit(how["exit"])
    if "result" in how:
        end(how["result"])


def held():
    os.makedirs(path("pool"), exist_ok=True)
    return {int(name): open(path("pool", name)).read() for name in os.listdir(path("pool"))}


def allocate():
    for number in range(FIRST, LAST + 1):
        try:
            fd = os.open(path("pool", str(number)), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            continue
        os.write(fd, WHO.encode())
        os.close(fd)
        return number
    return fail("no address is free", 11)


def free(keep):
    for number, who in held().items():
        if not keep(who):
            os.unlink(path("pool", str(number)))


def add(config):
    if "prevResult" in config:
        end(config["prevResult"])
    held()
    number = allocate()
    ip = {"address": f"10.99.0.{number}/24", "interface": 1}
    if config["cniVersion"].startswith("0."):
        ip["version"] = "4"
    inside = {"name": os.environ["CNI_IFNAME"], "sandbox": os.environ["CNI_NETNS"]}
    end({"cniVersion": config["cniVersion"], "interfaces": [{"name": "host0"}, inside], "ips": [ip]})


def main():
    config = json.load(sys.stdin)
    environment = {name: value for name, value in os.environ.items() if name not in ("LC_CTYPE",)}
    group = [os.getpid(), os.getpgid(0), os.getsid(0)]
    with open(path("calls.jsonl"), "a") as file:
        file.write(
            json.dumps({"type": TYPE, "command": COMMAND, "env": environment, "config": config, "ids": group}) + "\n"
        )
    try:
        with open(path(f"{TYPE}.{COMMAND}")) as file:
            misbehave(json.load(file))
    except FileNotFoundError:
        pass
    if COMMAND == "ADD":
        add(config)
    elif COMMAND == "DEL":
        free(lambda who: who != WHO)
    elif COMMAND == "CHECK" and WHO not in held().values():
        fail("the address is gone")
    elif COMMAND == "GC":
        valid = {each["containerID"] for each in config["cni.dev/valid-attachments"]}
        free(lambda who: who in valid)


os.makedirs(path("pool"), exist_ok=True)
main()
