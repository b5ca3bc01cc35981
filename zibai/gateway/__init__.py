"""What calls applications.

Today that is WSGI. A gateway makes the environ of a request, and gives the response to the stream.

 - wsgi            PEP 3333: the environ, and the call
 - interface       whether an application is WSGI or ASGI, or what else it may be
 - exchange        one call and its response
 - exchange_log    its record in the log
 - shortcut        a response of one piece, by one send
 - reply           the bytes of a response, without I/O
 - asgi            ASGI 3: the scope, and the call
 - asgi_http       one HTTP request of ASGI: receive, send, and the end
 - asgi_response   its response: what goes on the wire, and when
 - asgi_websocket  one WebSocket of ASGI: the handshake, messages, and the end
 - pending         what an application has given for its response, until its step ends
 - blame           whether an error is the application's
 - given_file      files that an ASGI application gives to be sent
 - lifespan        the start and the end of an ASGI application
 - complaints      what an application does wrong, logged once
 - proxies         what proxies say of the client
 - filewrapper     wsgi.file_wrapper, and which files the kernel can send
 - redirect        the application of --redirect-http
"""
