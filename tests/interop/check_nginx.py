"""moonlight data fetch from a real web server: nginx with HTTPS, ranges and redirects, told to stall, to cut and to lie.

  check_nginx.py PROGRAM

nginx (Debian: nginx-light) serves a folder laid out as the hub's; what nginx itself would never do (end before the
length it promised, promise another length) a small server behind it does.  Skipped where nginx or openssl is not.
"""
import hashlib, json, os, random, shutil, signal, socket, subprocess, sys, tempfile, threading, time

program = os.path.abspath(sys.argv[1])
nginx = shutil.which("nginx") or ("/usr/sbin/nginx" if os.path.exists("/usr/sbin/nginx") else None)
if not nginx or not shutil.which("openssl"):
    print("skipped: no nginx (Debian: nginx-light) or no openssl")
    sys.exit(77)
work = tempfile.mkdtemp(prefix="moonlight-nginx-")
os.chmod(work, 0o755)  # started by root, nginx answers as another user
failures = []
COMMIT = "1" * 40
REPO = "datasets/org/set"
large = random.Random(1).randbytes(3_000_000)
small = b'{"text": "one"}\n{"text": "two"}\n'


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


port, odd_port = free_port(), free_port()
base = f"https://127.0.0.1:{port}"


def put(path, data):
    path = f"{work}/www/{path}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)


def lay_out():
    git = lambda b: hashlib.sha1(b"blob %d\0" % len(b) + b).hexdigest()
    tree = [{"type": "file", "path": "data/small.jsonl", "size": len(small), "oid": git(small)},
            {"type": "file", "path": "data/large.bin", "size": len(large), "oid": "3" * 40,
             "lfs": {"oid": hashlib.sha256(large).hexdigest(), "size": len(large), "pointerSize": 130}}]
    put(f"api/{REPO}/revision/main", json.dumps({"sha": COMMIT}).encode())
    put(f"api/{REPO}/tree/{COMMIT}", json.dumps(tree).encode())
    for name, data in (("small.jsonl", small), ("large.bin", large)):
        put(f"{REPO}/resolve/{COMMIT}/data/{name}", data)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{work}/key.pem", "-out", f"{work}/cert.pem"],
                   check=True, capture_output=True)


def write_config(special=""):
    with open(f"{work}/nginx.conf", "w") as f:
        f.write(f"""
daemon off; master_process on; worker_processes 1; pid {work}/pid; error_log {work}/error.log;
events {{ worker_connections 64; }}
http {{
  log_format brief '$request_method $uri $status "$http_range" $body_bytes_sent';
  access_log {work}/access.log brief;
  client_body_temp_path {work}/t1; proxy_temp_path {work}/t2; fastcgi_temp_path {work}/t3;
  uwsgi_temp_path {work}/t4; scgi_temp_path {work}/t5;
  proxy_buffering off;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {work}/cert.pem; ssl_certificate_key {work}/key.pem;
    root {work}/www;
    location = /elsewhere/large.bin {{ alias {work}/www/{REPO}/resolve/{COMMIT}/data/large.bin; }}
    {special}
  }}
}}
""")


class Server:
    """nginx under one configuration; told another, it goes on."""

    def __init__(self):
        write_config()
        self.process = subprocess.Popen([nginx, "-c", f"{work}/nginx.conf", "-e", f"{work}/error.log"],
                                        stderr=subprocess.PIPE)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                return
            except OSError:
                time.sleep(0.05)
        raise SystemExit("nginx does not start: " + open(f"{work}/error.log").read())

    def tell(self, special):
        write_config(special)
        old = children(self.process.pid)
        self.process.send_signal(signal.SIGHUP)
        for _ in range(200):
            if not old & children(self.process.pid):
                return
            time.sleep(0.05)
        for pid in old & children(self.process.pid):  # a worker that still answers a slow client
            os.kill(pid, signal.SIGKILL)

    def stop(self):
        self.process.terminate()
        self.process.wait()


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return set(map(int, f.read().split()))


def odd_server(length, n_sent):
    """Behind nginx: promises `length` bytes of the large file, sends n_sent of them, and closes."""
    listener = socket.create_server(("127.0.0.1", odd_port), reuse_port=True)

    def serve():
        while True:
            try:
                c, _ = listener.accept()
            except OSError:
                return
            c.recv(65536)
            c.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode())
            c.sendall((large * 2)[:n_sent])
            c.close()

    threading.Thread(target=serve, daemon=True).start()
    return listener


def start_fetch(folder, *options, ca=None):
    env = dict(os.environ, CURL_CA_BUNDLE=ca or f"{work}/cert.pem", HF_ENDPOINT=base, no_proxy="127.0.0.1")
    return subprocess.Popen([program, "data", "fetch", "org/set", f"{work}/{folder}", "--retry-wait", "0.05", *options],
                            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                            text=True)


def fetch(folder, *options, ca=None):
    """What it printed, and its status."""
    process = start_fetch(folder, *options, ca=ca)
    return process.communicate(timeout=120)[0], process.returncode


def check(what, condition, found=""):
    print(("ok      " if condition else "FAILED  ") + what + ("" if condition else f"\n{found}"))
    if not condition:
        failures.append(what)


def is_whole(folder):
    try:
        return open(f"{work}/{folder}/data/large.bin", "rb").read() == large and \
            open(f"{work}/{folder}/data/small.jsonl", "rb").read() == small
    except FileNotFoundError:
        return False


def pretends(folder):
    return os.path.exists(f"{work}/{folder}/data/large.bin")


def requests():
    with open(f"{work}/access.log") as f:
        return [line for line in f if "large.bin" in line]


FILE = f"location = /{REPO}/resolve/{COMMIT}/data/large.bin"
BEHIND = f"{FILE} {{ proxy_pass http://127.0.0.1:{odd_port}; }}"


def main():
    lay_out()
    server = Server()
    try:
        text, status = fetch("plain")
        check("a data set comes whole", status == 0 and is_whole("plain"), text)
        text, status = fetch("untrusted", ca="/dev/null")
        check("a certificate nobody vouches for is refused", status == 1 and not pretends("untrusted") and
              "certificate" in text.lower(), text)

        server.tell(f"{FILE} {{ return 302 {base}/elsewhere/large.bin; }}")
        text, status = fetch("redirected")
        check("a redirection is followed", status == 0 and is_whole("redirected") and
              any("/elsewhere/" in r for r in requests()), text)

        server.tell(f"{FILE} {{ limit_rate_after 200k; limit_rate 1; }}")
        text, status = fetch("stalled", "--timeout", "1", "--retries", "0")
        check("a server that stalls is left, and nothing passes for complete", status == 1 and not pretends("stalled"), text)
        server.tell("")
        n = len(requests())
        text, status = fetch("stalled")
        later = requests()[n:]
        check("what had come is continued by a range", status == 0 and is_whole("stalled") and len(later) == 1 and
              " 206 " in later[0] and int(later[0].split()[-1]) < len(large), text + "".join(later))

        server.tell(f"{FILE} {{ limit_rate 500k; }}")
        process = start_fetch("killed")
        time.sleep(2)
        process.kill()
        process.communicate()
        check("killed, it leaves no file that passes for complete", not pretends("killed"))
        server.tell("")
        n = len(requests())
        text, status = fetch("killed")
        later = requests()[n:]
        check("after a kill it goes on where it was", status == 0 and is_whole("killed") and len(later) == 1 and
              " 206 " in later[0], text + "".join(later))

        listener = odd_server(len(large), len(large) // 2)
        server.tell(BEHIND)
        text, status = fetch("cut", "--retries", "1")
        check("a connection that is cut each time is an error", status == 1 and not pretends("cut"), text)
        listener.close()
        server.tell("")
        text, status = fetch("cut")
        check("and mended later", status == 0 and is_whole("cut"), text)

        for name, length in (("longer", len(large) + 7), ("shorter", len(large) - 7)):
            listener = odd_server(length, length)
            server.tell(BEHIND)
            text, status = fetch(name, "--retries", "1")
            check(f"a length that is {name} than listed is an error that names the file", status == 1 and
                  not pretends(name) and "large.bin" in text, text)
            listener.close()

        server.tell(f"{FILE} {{ return 503; }}")
        text, status = fetch("busy", "--retries", "2")
        check("a server that stays busy is named with its status", status == 1 and "503" in text, text)
    finally:
        server.stop()
        shutil.rmtree(work, ignore_errors=True)
    sys.exit(1 if failures else 0)


main()
