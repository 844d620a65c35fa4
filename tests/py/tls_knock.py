"""Knocks at a core node's gRPC port as a stranger with plain TLS tools would, and says how far it came.

Offers HTTP/2 by ALPN over TLS, with the given certificate or none, without checking the server's; sends the HTTP/2
preface and empty SETTINGS (RFC 9113 section 3.4) and waits for the server's. With TLS 1.3 a client learns only by
reading whether its certificate was taken.

Prints one JSON object: outcome (admitted: the server spoke HTTP/2; refused: it did not), detail.
"""

import argparse
import json
import socket
import ssl

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
FRAME_HEAD_BYTES = 9
SETTINGS = 4
PATIENCE_S = 20


def knock(port, certificate, key, is_plain):
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as tcp:
        stream = tcp
        if not is_plain:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            if certificate:
                context.load_cert_chain(certificate, key)
            stream = context.wrap_socket(tcp)
        stream.sendall(PREFACE)
        head = stream.recv(FRAME_HEAD_BYTES)
        if len(head) == FRAME_HEAD_BYTES and head[3] == SETTINGS:
            return "admitted", "the server sent its SETTINGS"
        return "refused", f"the server closed the connection after {len(head)} bytes"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--plain", action="store_true", help="without TLS")
    arguments = parser.parse_args()
    try:
        outcome, detail = knock(arguments.port, arguments.certificate, arguments.key, arguments.plain)
    except (ssl.SSLError, ConnectionError) as error:
        outcome, detail = "refused", str(error)
    print(json.dumps({"outcome": outcome, "detail": detail}))


if __name__ == "__main__":
    main()
