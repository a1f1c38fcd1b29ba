"""The page's files with the headers of `dots serve`, over an API that says what a test wants.

The last message of a request chooses the answer: one of `ANSWERS` by its name, or a behaviour (see `Handler.chat`), or an
echo. What was asked is kept in `FakeServer.requests`.
"""

import json
import pathlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = pathlib.Path(__file__).parents[2] / "crates/server/src/page"
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
# The same policy as the real server's, so that what it forbids fails here.
POLICY = re.sub(r"\\\n\s*", "", re.search(r'CONTENT_SECURITY_POLICY: &str = "(.*?)";', (PAGE / "mod.rs").read_text(), re.S).group(1))

ANSWERS = {
    "markdown": """# A heading

Some **bold**, *slanted* and `inline` words, a [link](https://example.org/a) and ~~none~~.

1. First
   - nested **one**
   - nested two
2. Second

> A quote of
> two lines.

```python
def merge(intervals):
    # Sort first.
    merged = []
    for low, high in sorted(intervals):
        if merged and low <= merged[-1][1]:
            merged[-1][1] = max(high, merged[-1][1])
        else:
            merged.append([low, high])
    return merged  # "done" in 10 lines
```

| Tea | Oxidised | Minutes |
|:----|:--------:|--------:|
| Green | no | 2 |
| Oolong | **partly** | 4 |
| Black | fully | 5 |

- [x] done
- [ ] to do

---

The end, with \\(x^2\\) in it.
""",
    "xss": """<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">

[click](javascript:window.hacked=3) [data](data:text/html,<script>window.hacked=4</script>) <javascript:window.hacked=5>

![pixel](https://evil.example/pixel.png) <svg onload=window.hacked=6> <a href="javascript:window.hacked=7">a</a>

[a](https://ok.example/"onmouseover="window.hacked=8) <iframe srcdoc="<script>parent.hacked=9</script>"></iframe>

```html"><script>window.hacked=10</script>
</code></pre><script>window.hacked = 11</script>
```

| <img src=x onerror=window.hacked=12> | `<script>` |
|---|---|
| <b>bold</b> | &lt;script&gt;window.hacked=13&lt;/script&gt; |

# <style>body{display:none}</style>

- <form action="https://evil.example"><input name=a></form>
""",
    "korean": """**전문가 혼합**은 큰 모델을 여러 **‘전문가’**로 나눈 구조입니다.

| 차 | 산화 | 시간 |
|---|---|---|
| 녹차 | 없음 | 2분 |
| 우롱차 | 부분 | 4분 |

```python
def 인사(이름):
    return f"안녕하세요, {이름}님"  # 인사말
```

- 필요한 전문가만 일합니다.
- 그래서 계산이 적게 듭니다.
""",
    "chinese": """**混合专家**模型把一个大网络分成许多**“专家”**，每个 token 只用其中几位。

| 茶 | 发酵 | 时间 |
|---|---|---|
| 绿茶 | 不发酵 | 2 分钟 |
| 乌龙茶 | 半发酵 | 4 分钟 |

```python
def greet(name):
    return f"你好，{name}"  # 打招呼
```

1. 路由器给每位专家打分。
2. 得分最高的六位参与计算。
""",
}
# The screenshots ask in the languages of their pages.
ALIASES = {"전문가 혼합이 뭐야?": "korean", "什么是混合专家模型？": "chinese", "Teas, and a merge of intervals, please": "markdown"}


class FakeServer:
    """Answers on `url` until `close`."""

    def __init__(self, key=None):
        self.key = key
        self.requests = []
        self.hung_up = 0
        # An answer that is held goes on once this is set.
        self.released = threading.Event()
        handler = type("H", (Handler,), {"fake": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()


class Handler(BaseHTTPRequestHandler):
    fake = None

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == "/v1/models":
            if self.is_open():
                models = [{"id": name, "object": "model", "max_model_len": 4096} for name in ("dots.llm1", "dots.llm1-q4")]
                self.send_json(200, {"object": "list", "data": models})
            return
        name = "index.html" if self.path == "/" else self.path.removeprefix("/page/")
        file = PAGE / name
        if "/" in name or file.suffix not in TYPES or not file.exists():
            return self.send_json(404, {"error": {"message": f"Invalid URL (GET {self.path})"}})
        body = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", TYPES[file.suffix])
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.is_open():
            return
        self.fake.requests.append(body)
        try:
            self.chat(body)
        except OSError:
            self.fake.hung_up += 1

    def is_open(self):
        if self.fake.key is None or self.headers.get("Authorization") == f"Bearer {self.fake.key}":
            return True
        self.send_json(401, {"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}})
        return False

    def send_json(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def chat(self, body):
        asked = body["messages"][-1]["content"]
        word, _, rest = asked.partition(" ")
        if word == "refuse":
            return self.send_json(int(rest), {"error": {"message": f"Refused with {rest}: <b>wait</b> a little.", "code": "x"}})
        if word == "proxy":
            page = b"<html><body>Bad gateway</body></html>"
            self.send_response(502)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            return self.wfile.write(page)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        text = ANSWERS.get(ALIASES.get(asked, asked))
        if word == "held":
            # One word each 20 ms, and in the middle a wait for the test: `held 60`.
            pieces, pause = [f"word{i} " for i in range(int(rest))], 0.02
            self.fake.released.clear()
        elif word == "slow":
            # One word each 20 ms: `slow 100`.
            pieces, pause = [f"word{i} " for i in range(int(rest))], 0.02
        elif word == "long":
            # As fast as it goes, in small pieces: `long 200`.
            whole = (ANSWERS["markdown"] * int(rest)).replace("# A heading", "## Part")
            pieces, pause = [whole[i : i + 40] for i in range(0, len(whole), 40)], 0
        elif word == "oneline":
            pieces, pause = ["**bold** and `code` in a line, "] * int(rest), 0
        else:
            text = text or f"You said: {asked}"
            pieces, pause = re.findall(r"\S+\s*", text) or [text], 0.002
        self.wfile.write(b": a comment keeps the line open\n\n")
        self.chunk({"role": "assistant", "content": ""})
        for i, piece in enumerate(pieces):
            self.chunk({"content": piece})
            if pause:
                time.sleep(pause)
            if word == "held" and i == len(pieces) // 2 - 1:
                self.fake.released.wait(60)
            if word == "break" and i == 1:
                return
            if word == "fail" and i == 1:
                return self.event({"error": {"message": "The engine failed: <i>out of luck</i>.", "code": "internal_error"}})
        self.chunk({}, "length" if word == "cut" else "stop")
        self.event({"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": len(pieces), "total_tokens": 12 + len(pieces)}})
        self.wfile.write(b"data: [DONE]\n\n")

    def chunk(self, delta, finish=None):
        self.event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": None})

    def event(self, value):
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()
