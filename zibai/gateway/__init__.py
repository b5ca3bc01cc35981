"""What calls applications.

Today that is WSGI. A gateway makes the environ of a request, and gives the response to the stream.

 - wsgi         PEP 3333: the environ, and the call
 - exchange     one call and its response
 - shortcut     a response of one piece, by one send
 - reply        the bytes of a response, without I/O
 - complaints   what an application does wrong, logged once
 - filewrapper  wsgi.file_wrapper, and which files the kernel can send
 - redirect     the application of --redirect-http
"""
