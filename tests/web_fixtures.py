"""What the tests of the web page share: a small size, and how an address is asked."""

import http.client
import urllib.parse

H, W, SCALE = 48, 64, 3


def connect(server, timeout=60):
    """A connection to the host of an address, past any proxy."""
    host = urllib.parse.urlsplit(server).netloc
    return http.client.HTTPConnection(host, timeout=timeout)


def fetched(server, address, timeout=60):
    """(status, content) of an address relative to the page's."""
    connection = connect(server, timeout)
    try:
        connection.request("GET", "/" + address)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def decoded(content):
    """The pixels of a PNG file of 8 or 16 bits."""
    from imagecodecs import png_decode

    return png_decode(content)
